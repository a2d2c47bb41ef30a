"The eight tables, their 24 indexes, and the three default rows. A migration is history: it never imports the models, which move on."
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision, down_revision = "0001", None

word, text, flag, whole, large = sa.String(), sa.Text(), sa.Boolean(), sa.Integer(), sa.BigInteger()
number = sa.Float().with_variant(sa.REAL(), "sqlite")
moment = sa.TIMESTAMP(timezone=True)
json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

tables = {
    "hyperparameter_optimization": dict(
        model_name=word, optimization_id=word, trial_number=whole, hyperparameters=json, objective_value=number, objective_name=word,
        optimization_status=word, training_duration_seconds=number, validation_metrics=json, best_trial=flag),
    "model_interpretability": dict(
        model_name=word, model_version=word, prediction_id=word, feature_name=word, feature_value=number, shap_value=number,
        lime_value=number, eli5_value=number, feature_importance_rank=whole, interpretation_type=word, sample_id=word, metadata=json),
    "ml_experiments": dict(
        experiment_id=word, experiment_name=word, experiment_type=word, status=word, config=json, metrics=json, artifacts=json,
        parent_experiment_id=word, tags=json, created_by=word, started_at=moment, completed_at=moment, duration_seconds=number),
    "advanced_feature_engineering": dict(
        feature_name=word, feature_type=word, feature_category=word, feature_description=text, feature_formula=text, parameters=json,
        importance_score=number, correlation_with_target=number, feature_drift_score=number, is_active=flag, created_by=word,
        version=word, metadata=json),
    "transformer_models": dict(
        model_name=word, model_type=word, model_config=json, tokenizer_config=json, training_config=json, model_size_mb=number,
        parameters_count=large, max_sequence_length=whole, vocabulary_size=whole, embedding_dimension=whole, num_layers=whole,
        num_heads=whole, dropout_rate=number, learning_rate=number, batch_size=whole, epochs_trained=whole, is_fine_tuned=flag,
        base_model=word, fine_tuning_config=json, performance_metrics=json, model_path=word, is_active=flag),
    "ensemble_models": dict(
        ensemble_name=word, ensemble_type=word, base_models=json, ensemble_config=json, weighting_strategy=word,
        base_model_weights=json, ensemble_performance=json, is_active=flag, created_by=word, version=word, metadata=json),
    "feature_selection_history": dict(
        selection_id=word, model_name=word, selection_method=word, selected_features=json, feature_scores=json,
        selection_threshold=number, total_features=whole, selected_count=whole, performance_impact=json, is_active=flag,
        created_by=word, metadata=json),
    "model_performance_comparison": dict(
        comparison_id=word, model_names=json, comparison_metrics=json, test_period_start=moment, test_period_end=moment,
        dataset_size=whole, comparison_method=word, winner_model=word, statistical_significance=number, confidence_interval=json,
        created_by=word, metadata=json),
}

indexes = {
    "hyperparameter_optimization": [("optimization_id", "trial_number"), ("model_name", "best_trial", "timestamp"),
                                    ("optimization_status", "timestamp")],
    "model_interpretability": [("prediction_id", "feature_importance_rank"),
                               ("model_name", "model_version", "interpretation_type", "feature_name"),
                               ("feature_name", "interpretation_type", "timestamp")],
    "ml_experiments": [("experiment_id",), ("experiment_type", "timestamp"), ("parent_experiment_id", "timestamp")],
    "advanced_feature_engineering": [("feature_name", "timestamp"), ("feature_category", "is_active", "feature_name"),
                                     ("is_active", "importance_score")],
    "transformer_models": [("is_active", "model_name"), ("model_name", "timestamp"), ("model_type", "timestamp")],
    "ensemble_models": [("is_active", "ensemble_name"), ("ensemble_name", "timestamp"), ("ensemble_type", "timestamp")],
    "feature_selection_history": [("selection_id", "selection_method"), ("model_name", "timestamp"), ("selection_method", "timestamp")],
    "model_performance_comparison": [("comparison_id", "timestamp"), ("test_period_start", "test_period_end"),
                                     ("winner_model", "timestamp")],
}
unique = {"experiment_id"}

shipped = "alphaplus_ml"
default_rows = {
    "transformer_models": dict(
        model_name="default", model_type="transformer", max_sequence_length=60, embedding_dimension=32, num_layers=2, num_heads=4,
        dropout_rate=0.1, learning_rate=0.001, batch_size=256, epochs_trained=0, is_fine_tuned=False, is_active=False,
        model_config={"model_type": "transformer", "sequence_length": 60, "embedding_dimension": 32, "num_layers": 2, "num_heads": 4,
                      "dropout_rate": 0.1, "bidirectional": False, "horizons": [1], "task": "regression", "version": "1"},
        training_config={"learning_rate": 0.001, "batch_size": 256, "epochs": 20, "seed": 0}),
    "ensemble_models": dict(
        ensemble_name="default", ensemble_type="voting", base_models=["ridge", "lightgbm"], weighting_strategy="equal",
        base_model_weights={"ridge": 0.5, "lightgbm": 0.5}, is_active=False, created_by=shipped, version="1",
        ensemble_config={"ensemble_type": "voting", "weighting_strategy": "equal", "splitter": "WalkForward", "n_splits": 5, "seed": 0}),
    "ml_experiments": dict(
        experiment_id="default", experiment_name="default", experiment_type="default", created_by=shipped,
        config={"experiment_name": "default", "experiment_type": "experiment", "backends": ["database", "mlflow"], "tags": {}, "parent": None}),
}


def upgrade():
    clock = sa.text("now()" if op.get_bind().dialect.name == "postgresql" else "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
    for name, columns in tables.items():
        table = op.create_table(name, sa.Column("id", whole, nullable=False),
                                sa.Column("timestamp", moment, server_default=clock, nullable=False),
                                *(sa.Column(column, kind) for column, kind in columns.items()),
                                sa.PrimaryKeyConstraint("id", name=f"pk_{name}"))
        for columns in indexes[name]: op.create_index(f"ix_{name}_{columns[0]}", name, columns, unique=columns[0] in unique)
        if name in default_rows: op.bulk_insert(table, [default_rows[name]])


def downgrade():
    for name in reversed(tables): op.drop_table(name)
